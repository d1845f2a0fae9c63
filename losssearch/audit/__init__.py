"""The last judge: fresh splits and seeds, paired statistics, controls."""
