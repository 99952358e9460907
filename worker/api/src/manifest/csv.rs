//! The CSV segment list that PMS wants (PROTOCOL 6.7), as a value with a text form.
