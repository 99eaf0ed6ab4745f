//! Names in the file system: the only place that makes, opens, links, renames, gives away or removes anything by name
//! where somebody else than us may write.
//!
//! A path is walked once, to an open folder; links of strangers are not followed on the way (`walk`). What is done then
//! is done to names of one component in that folder, or to an inode that was opened and looked at: whoever moves things
//! about meanwhile moves only his own. Nothing here waits for a file's other end: FIFOs and devices are opened
//! non-blocking. Any thread.

mod folder;
mod home;
mod open;
mod remove;
mod walk;

pub use folder::{Folder, Kind, Node};
pub(in crate::sys) use home::open_folder;
pub use home::{
    check_runtime_dir, is_still, lock_file, lock_file_within, make_for_service, make_private_dir, may_write,
    remove_file, remove_for_service, share_lock,
};
pub use open::{Access, explain, open_regular, open_stream, read_text};
pub use remove::{Limit, remove_tree};
pub use walk::{Spot, spot};
