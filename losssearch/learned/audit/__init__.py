"""Is a learned loss really better? Fresh data, equal tuning, paired statistics, losing rows kept."""
