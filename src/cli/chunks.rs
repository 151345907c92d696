//! Changing many messages, some at a time.

use uuid::Uuid;

use crate::store::{self, Changed};

/// At most so many messages are changed by one statement.
const CHUNK: usize = 500;

/// Changes messages; answers what became of them, in their order, and the error that ended it before the last. What was changed by then stays
/// changed, and is to be told.
///
/// # Errors
/// The store's, if it came before anything was changed.
pub(super) async fn change<F>(ids: &[Uuid], mut change: impl FnMut(Vec<Uuid>) -> F) -> Result<(Vec<Changed>, Option<store::Error>), store::Error>
where
    F: Future<Output = Result<Vec<Changed>, store::Error>>,
{
    let mut changed = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        match change(chunk.to_vec()).await {
            Ok(more) => changed.extend(more),
            Err(error) if changed.is_empty() => return Err(error),
            Err(error) => return Ok((changed, Some(error))),
        }
    }
    Ok((changed, None))
}
