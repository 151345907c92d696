//! What a node knows of one source's levels: which have something due, so that nobody asks the store for what is known.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The levels of a lane, as sets: bit n for priority n.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Those that were seen due.
    due: u16,
    /// Those on which a claim is under way.
    claiming: u16,
    /// Those that were left out of a look because of it.
    overlooked: u16,
}

impl Levels {
    /// These have something due.
    pub(super) fn due(&self, levels: u16) {
        self.known().due |= levels;
    }

    /// The highest that was seen due.
    pub(super) fn highest_due(&self) -> Option<u8> {
        self.known().due.checked_ilog2().and_then(|level| u8::try_from(level).ok())
    }

    /// Those that are worth a look: the claimer does not know yet that something is due, and is not just about to see.
    pub(super) fn unknown(&self) -> u16 {
        let mut known = self.known();
        known.overlooked |= known.claiming;
        !(known.due | known.claiming)
    }

    /// Whether a claim is under way, whose messages may be taken already and are not known here yet.
    pub(super) fn is_claiming(&self) -> bool {
        self.known().claiming != 0
    }

    /// A claim begins that takes what is due on this level; what is noted meanwhile stays noted.
    pub(super) fn claim_begins(&self, level: u8) {
        let mut known = self.known();
        known.due &= !(1 << level);
        (known.claiming, known.overlooked) = (1 << level, 0);
    }

    /// It ended, and noted what it left behind. Answers whether it was in the way of a look that has to be made now.
    pub(super) fn claim_ended(&self) -> bool {
        let mut known = self.known();
        known.claiming = 0;
        known.overlooked & !known.due != 0
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_a_claim_was_in_the_way_of_is_made_once_it_ended() {
        let levels = Levels::default();
        levels.due(0b101);
        levels.claim_begins(2);
        assert_eq!(levels.unknown() & 0b111, 0b010);
        assert!(levels.claim_ended());
        levels.claim_begins(0);
        assert!(!levels.claim_ended(), "nobody looked");
        // What the claim left behind is known: nobody need look.
        levels.claim_begins(0);
        levels.unknown();
        levels.due(1);
        assert!(!levels.claim_ended());
        assert_eq!(levels.unknown() & 0b111, 0b110);
    }
}
