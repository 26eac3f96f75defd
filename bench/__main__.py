"""`python bench` runs the transport benchmarks."""

from transports import main

raise SystemExit(main())
