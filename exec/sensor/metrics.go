package sensor

import (
	"io"

	"github.com/prometheus/client_golang/prometheus"
)

// What becomes of a line, as the metric's label says it.
const (
	lineEvent     = "event"
	lineHeartbeat = "heartbeat"
	lineCursor    = "cursor"
	lineBlocked   = "blocked"
	lineBad       = "bad"      // no event, and no control
	lineTooLong   = "too_long" // beyond child.MaxLine
	lineRefused   = "refused"  // an event that the Sink did not want
	lineFenced    = "fenced"   // an event under a lease that is another node's by now
	lineLost      = "lost"     // an event that the Sink did not take before the daemon ended
)

// Why a sensor was started again, as the metric's label says it.
const (
	restartExit     = "exit"
	restartSignal   = "signal"
	restartOOM      = "oom"
	restartStart    = "start_failed"
	restartWatchdog = "watchdog"
	restartChanged  = "changed"
	restartAsked    = "asked"
)

type metrics struct {
	restarts *prometheus.CounterVec
	lines    *prometheus.CounterVec
	bytes    *prometheus.CounterVec

	timerDelay prometheus.Histogram
}

// newMetrics registers the metrics; a nil Registerer leaves them unregistered. What can be told from
// the sensors themselves is asked of them when it is scraped: it is never out of date.
func newMetrics(registerer prometheus.Registerer, list func() []Info) *metrics {
	m := &metrics{
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_sensor_restarts_total", Help: "Starts of a sensor after its first, by reason.",
		}, []string{"sensor", "reason"}),
		lines: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_sensor_lines_total", Help: "Lines that sensors printed, by what became of them.",
		}, []string{"sensor", "outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_sensor_bytes_total", Help: "Bytes that sensors printed, by stream.",
		}, []string{"sensor", "stream"}),
		timerDelay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "attune_timer_delay_seconds",
			Help:    "From when a timer's firing was due, and its jitter was over, to when its event was stored.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
		}),
	}
	if registerer != nil {
		registerer.MustRegister(m.restarts, m.lines, m.bytes, m.timerDelay, &collector{
			list:    list,
			sensors: prometheus.NewDesc("attune_sensors", "Sensors, by state.", []string{"state"}, nil),
			running: prometheus.NewDesc("attune_sensor_running", "1 while a process of the sensor runs.", []string{"sensor"}, nil),
			last:    prometheus.NewDesc("attune_sensor_last_event_timestamp_seconds", "When the sensor's newest event was stored.", []string{"sensor"}, nil),
			blocked: prometheus.NewDesc("attune_sensor_blocked_seconds_total", "Time that a sensor's events waited because nobody took them.", []string{"sensor"}, nil),
		})
	}
	return m
}

// counted counts what is written through it.
type counted struct {
	io.Writer
	bytes prometheus.Counter
}

// Write is of io.Writer.
func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes.Add(float64(n))
	return n, err
}

type collector struct {
	list                            func() []Info
	sensors, blocked, running, last *prometheus.Desc
}

// Describe is of prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	to <- c.sensors
	to <- c.blocked
	to <- c.running
	to <- c.last
}

// Collect is of prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	count := map[State]int{}
	for _, info := range c.list() {
		count[info.State]++
		to <- prometheus.MustNewConstMetric(c.blocked, prometheus.CounterValue, info.BlockedSeconds, info.Ref)
		running := 0.0
		if info.PID != 0 {
			running = 1
		}
		to <- prometheus.MustNewConstMetric(c.running, prometheus.GaugeValue, running, info.Ref)
		if info.LastEventAt != nil {
			to <- prometheus.MustNewConstMetric(c.last, prometheus.GaugeValue, float64(info.LastEventAt.UnixMilli())/1000, info.Ref)
		}
	}
	for _, state := range states() {
		to <- prometheus.MustNewConstMetric(c.sensors, prometheus.GaugeValue, float64(count[state]), string(state))
	}
}
