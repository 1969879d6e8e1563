"""The page: a browser at the bench shows a running fleet or station, and scans labels into it."""
