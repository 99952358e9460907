//! RAII over libav: the only unsafe room of the worker.
