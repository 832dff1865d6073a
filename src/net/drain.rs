//! The word to finish, heard by every task of a core.
use local_sync::semaphore::Semaphore;

/// Before or after the word. A closed semaphore wakes all who wait and stays closed.
pub struct Drain(Semaphore);

impl Default for Drain {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Drain {
    /// Gives the word.
    pub fn start(&self) {
        self.0.close();
    }

    /// Whether it has been given.
    pub fn has_started(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits for it.
    pub async fn started(&self) {
        // No permit is ever added: this ends with the semaphore.
        let _ = self.0.acquire().await;
    }
}
