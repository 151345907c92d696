//! What a node knows about one source's levels: which of them have something due, so that the store is not asked about what is known.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The levels of a lane, as sets: bit n for priority n.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Levels that were found due.
    due: u16,
    /// Levels on which a claim is under way.
    claiming: u16,
    /// Levels that a look left out because of that claim.
    overlooked: u16,
}

impl Levels {
    /// These have something due.
    pub(super) fn due(&self, levels: u16) {
        self.known().due |= levels;
    }

    /// The highest level that was found due.
    pub(super) fn highest_due(&self) -> Option<u8> {
        self.known().due.checked_ilog2().and_then(|level| u8::try_from(level).ok())
    }

    /// The levels worth a look: those that are not known to be due and not just being claimed.
    pub(super) fn unknown(&self) -> u16 {
        let mut known = self.known();
        known.overlooked |= known.claiming;
        !(known.due | known.claiming)
    }

    /// Whether a claim is under way, which may have taken messages that are not known here yet.
    pub(super) fn is_claiming(&self) -> bool {
        self.known().claiming != 0
    }

    /// A claim of what is due on this level begins; whatever is recorded meanwhile stays recorded.
    pub(super) fn claim_begins(&self, level: u8) {
        let mut known = self.known();
        known.due &= !(1 << level);
        (known.claiming, known.overlooked) = (1 << level, 0);
    }

    /// The claim ended and has recorded what it left behind. Returns whether it kept a look from a level that has to be looked at now.
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
