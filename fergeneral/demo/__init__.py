"""The demo in the browser, `fergeneral demo`: everything is computed on this machine, nothing is stored."""
