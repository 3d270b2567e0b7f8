"""The milter protocol, versions 2 to 6, as octets: one codec for the side of the mail server and that of the milter."""
