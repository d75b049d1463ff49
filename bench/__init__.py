"""Side by side with other brokers, in one run. Clients that we did not write; ratios and broker CPU are what counts."""
