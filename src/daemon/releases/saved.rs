//! What names meant, in a stored state.

use super::{Named, Release, Releases, bound};
use crate::daemon::envfiles::Text;
use crate::daemon::saved::{Incoming, Key, Outgoing, StoredPath};
use crate::machine::event::{Content, ContentId};
use crate::machine::gone::AllGivenUp;
use crate::sys::pin::{Identity, Kind, Pin};
use crate::unit::Unit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

/// [`Releases`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedReleases {
    by_content: Vec<(ContentId, SavedRelease)>,
    given_up: AllGivenUp,
    fresh: Option<ContentId>,
    still_there: Option<String>,
    told: Option<ContentId>,
}

/// A [`Release`], without its unit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRelease {
    named: Option<SavedNamed>,
    working: Option<SavedPin>,
    programs: Vec<(String, SavedPin)>,
    texts: Vec<Text>,
    identity: u64,
    read_at: f64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPin {
    fd: Key,
    name: StoredPath,
    real: Option<StoredPath>,
    was: Identity,
    kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedNamed {
    Held(SavedPin),
    Unheld(String),
    Missing(String),
}

impl SavedPin {
    fn save(pin: &Pin, name: impl Display, out: &mut Outgoing) -> Result<SavedPin, String> {
        let (fd, at, real, was, kind) = pin.parts();
        let real = real.map(|path| StoredPath(path.to_owned()));
        Ok(SavedPin { fd: out.put(name, fd)?, name: StoredPath(at.to_owned()), real, was, kind })
    }

    fn restore(self, from: &mut Incoming) -> Result<Arc<Pin>, String> {
        let SavedPin { fd, name, real, was, kind } = self;
        Ok(Arc::new(Pin::restored(from.take(&fd)?, name.0, real.map(|path| path.0), was, kind)))
    }
}

impl Release {
    /// Stores it; `name` is whose it is.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, name: &str, out: &mut Outgoing) -> Result<SavedRelease, String> {
        let Release { plain: _, unit: _, named, working, programs, far: _, texts, identity, read_at } = self;
        let named = match named {
            Named::Nothing => None,
            Named::Held(pin) => {
                Some(SavedNamed::Held(SavedPin::save(pin, format_args!("{name}.release"), out)?))
            }
            Named::Unheld(why) => Some(SavedNamed::Unheld(why.clone())),
            Named::Missing(why) => Some(SavedNamed::Missing(why.clone())),
        };
        let working = working
            .as_ref()
            .map(|pin| SavedPin::save(pin, format_args!("{name}.working"), out))
            .transpose()?;
        let mut saved = Vec::with_capacity(programs.len());
        for (number, (word, pin)) in programs.iter().enumerate() {
            saved.push((word.clone(), SavedPin::save(pin, format_args!("{name}.program.{number}"), out)?));
        }
        let texts = texts.clone();
        Ok(SavedRelease { named, working, programs: saved, texts, identity: *identity, read_at: *read_at })
    }

    /// The release of a unit again.
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(saved: SavedRelease, unit: &Arc<Unit>, from: &mut Incoming) -> Result<Release, String> {
        let SavedRelease { named, working, programs, texts, identity, read_at } = saved;
        let named = match named {
            None => Named::Nothing,
            Some(SavedNamed::Held(pin)) => Named::Held(pin.restore(from)?),
            Some(SavedNamed::Unheld(why)) => Named::Unheld(why),
            Some(SavedNamed::Missing(why)) => Named::Missing(why),
        };
        let mut held = BTreeMap::new();
        for (word, pin) in programs {
            held.insert(word, pin.restore(from)?);
        }
        let working = working.map(|pin| pin.restore(from)).transpose()?;
        let (plain, unit) = (Arc::clone(unit), bound(unit, &named));
        Ok(Release { plain, unit, named, working, programs: held, far: None, texts, identity, read_at })
    }
}

impl Releases {
    /// Stores them.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<SavedReleases, String> {
        // Of what is gone is said once more.
        let Releases { by_content, given_up, fresh, still_there, told, gone: _, losses: _, just_read: _ } =
            self;
        let mut saved = Vec::with_capacity(by_content.len());
        for (id, release) in by_content {
            saved.push((*id, release.save(&format!("content.{}", id.0), out)?));
        }
        Ok(SavedReleases {
            by_content: saved,
            given_up: given_up.clone(),
            fresh: *fresh,
            still_there: still_there.clone(),
            told: *told,
        })
    }

    /// The releases again, of these contents.
    ///
    /// # Errors
    /// One is of a content that is not there; those of [`Incoming::take`].
    pub fn restore(
        saved: SavedReleases,
        contents: &BTreeMap<ContentId, Content>,
        from: &mut Incoming,
    ) -> Result<Releases, String> {
        let SavedReleases { by_content, given_up, fresh, still_there, told } = saved;
        let mut held = BTreeMap::new();
        for (id, release) in by_content {
            let content = contents.get(&id).ok_or("a release has no content")?;
            held.insert(id, Arc::new(Release::restore(release, &content.unit, from)?));
        }
        Ok(Releases { by_content: held, given_up, fresh, still_there, told, ..Releases::default() })
    }
}
