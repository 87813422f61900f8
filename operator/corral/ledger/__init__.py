"""What every attempt cost, kept in a database that outlives the objects."""
