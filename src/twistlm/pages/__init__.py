"""What people read: plain values in, one self-contained HTML page (or a table for the terminal) out. No torch."""
