//! The MPD that PMS wants (PROTOCOL 6.6), as a value with a text form.
