"""What a person looks at: pages, plots and the demo."""
