"""What people look at: pictures, plots and tables."""
