//! A connection as a task, from its opening to its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::carry::Carrying;

/// A connection that is being opened; none that ended so soon has anything to carry.
pub(super) type Opening = Pin<Box<dyn Future<Output = Option<Carrying>>>>;

/// A connection, from its opening to its end. To open takes far more room than to carry: it is given back in between.
///
/// Not an async function, which would have room of its own for each part and for what it was called with: most tasks of
/// an agent are one of these.
pub(super) enum Connection {
    Opening(Opening),
    Carrying(Carrying),
    Over,
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            *self = match &mut *self {
                Self::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Some(carrying) => Self::Carrying(carrying),
                    None => Self::Over,
                },
                Self::Carrying(carrying) => {
                    ready!(carrying.as_mut().poll(cx));
                    Self::Over
                }
                Self::Over => return Poll::Ready(()),
            }
        }
    }
}
