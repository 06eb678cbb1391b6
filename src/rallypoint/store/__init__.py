"""The coordination store: five verbs over memory or TCP."""
