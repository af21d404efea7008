"""From addresses and files to tokens: fetched, recognised, judged, counted."""
