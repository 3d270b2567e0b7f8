"""DMARC aggregate reports to the owners of domains: what goes into them, how they are made, and when they are sent."""
