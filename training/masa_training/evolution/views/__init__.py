"""Looking at an evolution run: a report in HTML of any run, and a live view of one that goes on."""
