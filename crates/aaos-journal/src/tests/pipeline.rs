//! Begin and finish, with effects that a real authority authorised.
