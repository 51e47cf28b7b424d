#!/bin/sh
# core.interval_timer_sensor: the timer engine is part of the attune binary.
exec "${ATTUNE_BINARY:?is set by the daemon}" timer-engine
