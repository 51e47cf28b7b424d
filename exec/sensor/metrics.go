package sensor

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
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
	restartForkBomb = "fork_bomb"
	restartStart    = "start_failed"
	restartWatchdog = "watchdog"
	restartChanged  = "changed"
	restartAsked    = "asked"
)

type metrics struct {
	restarts *prometheus.CounterVec
	lines    *prometheus.CounterVec

	unkillable prometheus.Counter
	timerDelay prometheus.Histogram
}

// newMetrics registers the metrics; a nil Registerer leaves them unregistered. What can be told from
// the sensors themselves is asked of them when it is scraped: it is never out of date.
func newMetrics(registerer prometheus.Registerer, all func() []*sensor) *metrics {
	m := &metrics{
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_sensor_restarts_total", Help: "Starts of a sensor after its first, by reason.",
		}, []string{"sensor", "reason"}),
		lines: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_sensor_lines_total", Help: "Lines that sensors printed, by what became of them.",
		}, []string{"sensor", "outcome"}),
		timerDelay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "attune_timer_delay_seconds",
			Help:    "From when a timer's firing was due, and its jitter was over, to when its event was stored.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
		}),
	}
	m.unkillable = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "attune_unkillable_sensors_total", Help: "Processes of sensors that were killed and did not end, or left something behind that did not: no other is started beside them.",
	})
	if registerer != nil {
		registerer.MustRegister(m.restarts, m.lines, m.timerDelay, m.unkillable, &collector{
			all:     all,
			sensors: prometheus.NewDesc("attune_sensors", "Sensors, by state.", []string{"state"}, nil),
			running: prometheus.NewDesc("attune_sensor_running", "1 while a process of the sensor runs.", []string{"sensor"}, nil),
			last:    prometheus.NewDesc("attune_sensor_last_event_timestamp_seconds", "When the sensor's newest event was stored.", []string{"sensor"}, nil),
			blocked: prometheus.NewDesc("attune_sensor_blocked_seconds_total", "Time that a sensor's events waited because nobody took them.", []string{"sensor"}, nil),
			bytes:   prometheus.NewDesc("attune_sensor_bytes_total", "Bytes that sensors printed, by stream.", []string{"sensor", "stream"}, nil),
		})
	}
	return m
}

// counted counts what is written through it.
type counted struct {
	io.Writer
	bytes *atomic.Int64
}

// Write is of io.Writer.
func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// series are the labels of what is told of one sensor, made once: a thousand sensors have most of what a scrape
// tells, and making and sorting their labels anew was half of its time.
type series struct {
	sensor, stdout, stderr []*dto.LabelPair
}

func newSeries(ref string) series {
	sensor, stream, stdout, stderr := "sensor", "stream", "stdout", "stderr"
	name := &dto.LabelPair{Name: &sensor, Value: &ref}
	return series{
		sensor: []*dto.LabelPair{name},
		stdout: []*dto.LabelPair{name, {Name: &stream, Value: &stdout}},
		stderr: []*dto.LabelPair{name, {Name: &stream, Value: &stderr}},
	}
}

// told is one series of a sensor.
type told struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair
	counter bool
	value   float64
}

// Desc is of prometheus.Metric.
func (t *told) Desc() *prometheus.Desc { return t.desc }

// Write is of prometheus.Metric.
func (t *told) Write(to *dto.Metric) error {
	to.Label = t.labels
	if t.counter {
		to.Counter = &dto.Counter{Value: &t.value}
	} else {
		to.Gauge = &dto.Gauge{Value: &t.value}
	}
	return nil
}

type collector struct {
	all                                    func() []*sensor
	sensors, running, last, blocked, bytes *prometheus.Desc
}

// Describe is of prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	to <- c.sensors
	to <- c.running
	to <- c.last
	to <- c.blocked
	to <- c.bytes
}

// Collect is of prometheus.Collector. The sensors come in their order, and so nothing is left to be sorted.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	count, now := map[State]int{}, time.Now()
	for _, s := range c.all() {
		state, running := s.runs()
		count[state]++
		to <- &told{c.running, s.series.sensor, false, running}
		last, blocked := s.stats.scraped(now)
		if last != 0 {
			to <- &told{c.last, s.series.sensor, false, last}
		}
		to <- &told{c.blocked, s.series.sensor, true, blocked}
		to <- &told{c.bytes, s.series.stderr, true, float64(s.stderr.Load())}
		to <- &told{c.bytes, s.series.stdout, true, float64(s.stdout.Load())}
	}
	for _, state := range states() {
		to <- prometheus.MustNewConstMetric(c.sensors, prometheus.GaugeValue, float64(count[state]), string(state))
	}
}
