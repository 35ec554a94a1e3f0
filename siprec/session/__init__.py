"""What a recording session is: its records, its one state table, its rules."""
