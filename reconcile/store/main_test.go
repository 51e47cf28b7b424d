package store_test

import (
	"testing"

	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }
