"""All side effects: they implement the ports."""
