//! What can be gone back to: the contents that were promoted, in the order in which that happened first.

use crate::machine::event::{ContentId, Gen};
use serde::{Deserialize, Serialize};

/// How many generations of one content are known by their numbers.
const NUMBERS: usize = 8;

/// A content that was promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promoted {
    pub(crate) content: ContentId,
    /// The generations that ran it, oldest first; the last few.
    pub(crate) generations: Vec<Gen>,
    /// A rollback has led away from it: none leads to it again, but by its number.
    pub(crate) left: bool,
}

/// All of them that are kept. The one that serves is the last that was not left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept(Vec<Promoted>);

impl Kept {
    pub(crate) fn new(first: ContentId) -> Kept {
        Kept(vec![Promoted { content: first, generations: Vec::new(), left: false }])
    }

    /// This content serves from now on. Of those that were promoted before it, the newest `keep` stay.
    pub(crate) fn promote(&mut self, content: ContentId, keep: u32) {
        match self.0.iter().position(|entry| entry.content == content) {
            Some(at) => {
                for (n, entry) in self.0.iter_mut().enumerate().skip(at) {
                    entry.left = n > at;
                }
            }
            None => self.0.push(Promoted { content, generations: Vec::new(), left: false }),
        }
        self.trim(content, keep);
    }

    /// Nothing leads back to it any more.
    pub(crate) fn forget(&mut self, content: ContentId) {
        self.0.retain(|entry| entry.content != content);
    }

    /// Keeps the newest `keep` beside the one that serves.
    fn trim(&mut self, serving: ContentId, keep: u32) {
        let mut over = self.0.len().saturating_sub(1).saturating_sub(keep as usize);
        self.0.retain(|entry| {
            let goes = over > 0 && entry.content != serving;
            over -= usize::from(goes);
            !goes
        });
    }

    /// A generation of this content has become the serving one.
    pub(crate) fn ran(&mut self, content: ContentId, number: Gen) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.content == content)
            && !entry.generations.contains(&number)
        {
            if entry.generations.len() == NUMBERS {
                entry.generations.remove(0);
            }
            entry.generations.push(number);
        }
    }

    /// Where a rollback leads to.
    pub(crate) fn earlier(&self, serving: ContentId) -> Option<&Promoted> {
        let at = self.0.iter().position(|entry| entry.content == serving)?;
        self.0.iter().take(at).rfind(|entry| !entry.left)
    }

    /// The content that a generation ran.
    pub(crate) fn of(&self, number: Gen) -> Option<&Promoted> {
        self.0.iter().find(|entry| entry.generations.contains(&number))
    }

    pub(crate) fn entry(&self, content: ContentId) -> Option<&Promoted> {
        self.0.iter().find(|entry| entry.content == content)
    }

    /// Oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Promoted> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: u32 = 3;

    fn ids(kept: &Kept) -> Vec<u32> {
        kept.all().map(|entry| entry.content.0).collect()
    }

    fn back(kept: &Kept, serving: u32) -> Option<u32> {
        kept.earlier(ContentId(serving)).map(|entry| entry.content.0)
    }

    #[test]
    fn a_rollback_leads_to_the_one_before_and_never_forward() {
        let mut kept = Kept::new(ContentId(1));
        assert_eq!(back(&kept, 1), None);
        for id in [2, 3] {
            kept.promote(ContentId(id), KEEP);
        }
        assert_eq!(back(&kept, 3), Some(2));
        kept.promote(ContentId(2), KEEP);
        assert_eq!(back(&kept, 2), Some(1));
        kept.promote(ContentId(1), KEEP);
        assert_eq!(back(&kept, 1), None);
        // What was left stays known, and the next release does not lead back to it.
        kept.promote(ContentId(4), KEEP);
        assert_eq!((ids(&kept), back(&kept, 4)), (vec![1, 2, 3, 4], Some(1)));
    }

    #[test]
    fn one_that_was_left_is_gone_back_to_by_its_number_and_counts_again() {
        let mut kept = Kept::new(ContentId(1));
        for (id, number) in [(1, 1), (2, 2), (1, 3), (3, 4)] {
            kept.promote(ContentId(id), KEEP);
            kept.ran(ContentId(id), Gen(number));
        }
        assert_eq!(back(&kept, 3), Some(1));
        assert_eq!(kept.of(Gen(2)).map(|entry| (entry.content.0, entry.left)), Some((2, true)));
        kept.promote(ContentId(2), KEEP);
        assert_eq!(back(&kept, 2), Some(1));
        assert_eq!(kept.of(Gen(3)).map(|entry| entry.content.0), Some(1));
        assert_eq!(kept.of(Gen(9)), None);
    }

    #[test]
    fn the_oldest_go_first_and_the_serving_one_never() {
        let mut kept = Kept::new(ContentId(1));
        for id in 2..7 {
            kept.promote(ContentId(id), KEEP);
        }
        assert_eq!(ids(&kept), [3, 4, 5, 6]);
        kept.promote(ContentId(3), 1);
        assert_eq!(ids(&kept), [3, 6]);
        kept.promote(ContentId(3), 0);
        assert_eq!((ids(&kept), back(&kept, 3)), (vec![3], None));
        for number in 1..20 {
            kept.ran(ContentId(3), Gen(number));
        }
        assert_eq!(kept.of(Gen(12)).map(|entry| entry.generations.len()), Some(NUMBERS));
    }
}
