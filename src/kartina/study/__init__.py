"""Study: which generator should I serve? Presets x data x seeds on equal budgets, a report, and a choice."""
