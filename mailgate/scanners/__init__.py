"""Clients of what looks at content: scanners, milters, services and commands of the site's own. No policy."""
