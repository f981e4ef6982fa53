//! The mailbox of one persistent agent: a bounded queue in order of arrival.
//!
//! Invariant: what is sent never fills it beyond its capacity; the sender of one message more gets it back, typed
//! *full*. It does not wait: the kernel that owns it wakes the reader.

use std::collections::VecDeque;

use aaos_core::limits::MAILBOX_MESSAGES;

/// A bounded queue of messages.
#[derive(Debug, Clone)]
pub struct Mailbox<T> {
    messages: VecDeque<T>,
    capacity: usize,
}

/// The mailbox has no room; the message comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mailbox is full ({capacity} messages wait); send again when the agent has read some")]
pub struct MailboxFull<T> {
    /// The message that was not taken.
    pub message: T,
    /// How many messages the mailbox holds.
    pub capacity: usize,
}

impl<T> Mailbox<T> {
    /// An empty mailbox for [`MAILBOX_MESSAGES`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(MAILBOX_MESSAGES)
    }

    /// An empty mailbox for this many messages.
    ///
    /// # Panics
    /// When the capacity is zero.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "a mailbox holds at least one message");
        Self { messages: VecDeque::new(), capacity }
    }

    /// Puts a message at the end.
    ///
    /// # Errors
    /// [`MailboxFull`] with the message when there is no room.
    pub fn try_push(&mut self, message: T) -> Result<(), MailboxFull<T>> {
        if self.messages.len() >= self.capacity {
            return Err(MailboxFull { message, capacity: self.capacity });
        }
        self.messages.push_back(message);
        Ok(())
    }

    /// Puts a message at the end that was acknowledged before a restart, whether or not there is room: one that the
    /// agent had just taken has left its place to another.
    pub fn put_back(&mut self, message: T) {
        self.messages.push_back(message);
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<T> {
        self.messages.pop_front()
    }

    /// Takes everything, oldest first, for an agent that stops.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.messages.drain(..)
    }

    /// How many messages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::MAILBOX_MESSAGES;

    use super::{Mailbox, MailboxFull};

    #[test]
    fn one_message_too_many_comes_back() {
        let mut mailbox = Mailbox::new();
        for number in 0..MAILBOX_MESSAGES {
            mailbox.try_push(number).expect("room");
        }
        let full = MailboxFull { message: 99, capacity: MAILBOX_MESSAGES };
        assert_eq!(mailbox.try_push(99), Err(full));
        assert_eq!(mailbox.pop(), Some(0));
        mailbox.try_push(100).expect("room again");
        assert_eq!(mailbox.len(), MAILBOX_MESSAGES);
        assert_eq!(mailbox.drain().last(), Some(100));
        assert!(mailbox.is_empty());
    }
}
