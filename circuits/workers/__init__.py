"""Where work is computed: in this process, or in Ray processes."""
