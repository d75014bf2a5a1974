//! What the writer does about room on the disk: what a full one takes, and what an error for want of room leads to.

use super::{
    super::{queue::Queued, space, transaction::run},
    Working,
};
use crate::{
    storage::{Error, Result},
    tasks,
};

impl Working {
    pub(super) async fn see_to_space(&mut self) -> Result<()> {
        self.connection().await?;
        match &mut self.conn {
            Some(conn) => self.space.at_leisure(conn).await,
            None => Ok(()),
        }
    }

    /// Before a step of housekeeping. A page that is freed is overwritten, and so stands in the log: when the search index
    /// is merged on the way, these are as many as the index has. A full disk has no room for that. There pages are freed
    /// only, and go back to the system; and each step begins with an empty log.
    pub(super) async fn prepare_step(&mut self) -> Result<()> {
        let full = self.space.is_full();
        self.connection().await?;
        let Some(conn) = &mut self.conn else { return Ok(()) };
        if full {
            space::cut_log(conn).await?;
        }
        if self.scrubs == full {
            run(conn, if full { "pragma secure_delete = fast" } else { "pragma secure_delete = on" }).await?;
            self.scrubs = !full;
        }
        Ok(())
    }

    /// What the disk has room for of a batch. The rest is refused at once.
    pub(super) async fn admit(&mut self, batch: Vec<Queued>) -> Vec<Queued> {
        // Without a connection the writes themselves say what is wrong.
        if self.connection().await.is_ok()
            && let Some(conn) = &mut self.conn
            && let Err(error) = self.space.look(conn).await
        {
            tracing::debug!(%error, "the room on the disk is not known");
            self.give_up(&error).await;
        }
        if !self.space.is_full() {
            return batch;
        }
        let (taken, refused): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(_, command)| command.is_for_full_disk());
        refused.into_iter().for_each(|(_, command)| command.refuse(Error::Full));
        taken
    }

    /// An error, and [`Error::Full`] when it was for want of room. Then space is made for what a full disk takes.
    pub(super) async fn or_full(&mut self, error: Error) -> Error {
        let database = self.options.get_filename().to_owned();
        let is_full = match &error {
            Error::Full => true,
            Error::Unavailable(_) => tasks::blocking(move || space::lacks_room(&database)).await,
            _ => false,
        };
        if !is_full {
            return error;
        }
        if self.connection().await.is_ok()
            && let Some(conn) = &mut self.conn
            && let Err(error) = self.space.exhausted(conn).await
        {
            tracing::debug!(%error, "no space was given back this time");
            self.give_up(&error).await;
        }
        Error::Full
    }
}
