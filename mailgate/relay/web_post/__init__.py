"""Transport `http`: messages posted to an application of the site's own."""
