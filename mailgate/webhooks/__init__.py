"""Events for programs of the site, by HTTP POST: kept in a queue of their own, and sent in their order."""
