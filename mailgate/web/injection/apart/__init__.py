"""Large and heavy calls are read in processes of their own: `readers` is our side, `inside` theirs."""
