#!/bin/sh
# core.filechange_sensor: the engine is part of the attune binary.
exec "${ATTUNE_BINARY:?is set by the daemon}" filechange-engine
