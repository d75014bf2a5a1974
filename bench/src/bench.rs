//! A run: its programs, its databases and what it has measured so far.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use bench_protocol::{Job, Plan, Texts};

use crate::{
    Outcome,
    figures::{Figure, Unit},
    peer::Peer,
    programs::Programs,
    server::Server,
};

pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
    pub(crate) repeats: usize,
    pub(crate) texts: Texts,
    pub(crate) figures: Vec<Figure>,
    /// Culm through its library, and bare SQLite.
    pub(crate) culm: Peer,
    pub(crate) sqlite: Peer,
    folder: PathBuf,
    made: HashMap<String, (Plan, PathBuf)>,
}

impl Bench {
    pub(crate) fn new(programs: Programs, quick: bool, folder: PathBuf) -> Outcome<Self> {
        let (culm, sqlite) = (Peer::start(&programs.culm)?, Peer::start(&programs.sqlite)?);
        fs::create_dir_all(&folder)?;
        let repeats = if quick { 3 } else { 5 };
        let (figures, made) = (Vec::new(), HashMap::new());
        Ok(Self { programs, quick, repeats, texts: Texts::default(), figures, culm, sqlite, folder, made })
    }

    /// The number for a whole run, or that for a quick one.
    pub(crate) fn sized<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(crate) fn add_values(&mut self, name: &str, unit: Unit, values: &[f64]) {
        self.add(Figure::new(name, unit, values));
    }

    pub(crate) fn add_sized(&mut self, name: &str, size: usize, unit: Unit, values: &[f64]) {
        self.add(Figure::new(name, unit, values).of_size(size));
    }

    /// A place in the run's folder.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A copy, for one to work on, of the database that holds this; made when it is asked for first.
    pub(crate) fn copy(&mut self, data: &str, plan: &Plan, whose: &str) -> Outcome<PathBuf> {
        let original = self.original(data, plan)?;
        let copy = self.place(&format!("{data}-{whose}.db"));
        remove(&copy)?;
        fs::copy(&original, &copy)?;
        // What waits to be written would be waited for by whoever commits next.
        File::open(&copy)?.sync_all()?;
        Ok(copy)
    }

    fn original(&mut self, data: &str, plan: &Plan) -> Outcome<PathBuf> {
        if let Some((made, path)) = self.made.get(data) {
            assert_eq!(made, plan, "two plans under one name");
            return Ok(path.clone());
        }
        let path = self.place(&format!("{data}.db"));
        remove(&path)?;
        eprintln!("  making {data}: {} messages", plan.messages());
        let text = path.display().to_string();
        self.culm.ask(&Job::Make { path: text.clone() })?;
        self.culm.close()?;
        self.sqlite.ask(&Job::Fill { path: text, plan: plan.clone() })?;
        self.made.insert(data.into(), (plan.clone(), path.clone()));
        Ok(path)
    }

    /// Culm's server on a copy of a database.
    pub(crate) fn serve(&mut self, data: &str, plan: &Plan) -> Outcome<Server> {
        let db = self.copy(data, plan, "server")?;
        Server::culm(&self.programs.server, &db)
    }

    /// Removes a database that nobody needs any more.
    pub(crate) fn forget(&mut self, data: &str) -> Outcome<()> {
        self.made.remove(data);
        for name in ["", "-culm", "-sqlite", "-plain", "-server"] {
            remove(&self.place(&format!("{data}{name}.db")))?;
        }
        Ok(())
    }
}

/// Removes a database with what is beside it.
pub(crate) fn remove(db: &Path) -> Outcome<()> {
    for ending in ["", "-wal", "-shm", ".lock", ".token"] {
        let mut name = db.as_os_str().to_owned();
        name.push(ending);
        match fs::remove_file(name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
