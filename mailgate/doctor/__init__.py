"""`mailgate doctor`: what a site would lose or refuse mail by, found before its mail depends on it."""
