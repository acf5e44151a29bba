"""The frame loop: scheduler, driver, threads, results and records."""
