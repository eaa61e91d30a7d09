"""The parts of `make bench`: systems and peers to measure, the measures, the table."""
