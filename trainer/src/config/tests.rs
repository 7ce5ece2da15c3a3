#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::{Loaded, choice, describe_markdown, load, section};

choice! {
    /// How weights move.
    pub enum Kind {
        /// Adaptive.
        Adam = "adam",
        /// Plain.
        Sgd = "sgd",
    }
}

section! {
    /// How weights are updated.
    pub struct Optim {
        /// The rule.
        pub kind: Kind = Kind::Adam,
        /// Peak learning rate.
        pub lr: f64 = 5e-5,
        /// Decay rates
        /// of the moments.
        pub betas: Vec<f64> = vec![0.9, 0.999],
        /// Rates by group.
        pub groups: BTreeMap<String, f64> = BTreeMap::new(),
    }
}

section! {
    /// The loop.
    pub struct Train {
        /// Where the data is.
        pub data: PathBuf,
        /// How long.
        pub steps: u32 = 100,
        /// Shown in logs.
        pub name: Option<String> = None,
        /// Sync | async.
        pub overlap: bool = true,
    }
}

section! {
    /// A stage.
    pub struct Stage {
        /// What it is called.
        pub title: String,
    }
}

section! {
    /// A sample.
    pub struct Root {
        /// The optimizer.
        pub optim: Optim = Optim::default(),
        /// The loop.
        pub train: Train,
        /// Stages in order.
        pub stages: Vec<Stage> = Vec::new(),
    }
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn load(&self, name: &str, sets: &[&str]) -> Result<Loaded<Root>, String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_string()).collect();
        load(&self.0.path().join(name), &sets).map_err(|error| {
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than one line: {text}");
            text.replace(&format!("{}/", self.0.path().display()), "")
        })
    }
}

fn fails(text: &str, sets: &[&str]) -> String {
    Dir::new(&[("x.toml", text)]).load("x.toml", sets).expect_err("the configuration is wrong")
}

#[test]
fn defaults_below_file_below_set() {
    let dir = Dir::new(&[("x.toml", "[train]\ndata = \"d\"\nsteps = 7\n[optim]\nkind = \"sgd\"\nlr = 1\n")]);
    let loaded = dir.load("x.toml", &["train.steps=9", "train.name = 2024", "optim.groups.encoder=1e-3"]).unwrap();
    let Root { optim, train, stages } = loaded.config.clone();
    assert_eq!((train.data, train.steps, train.overlap), ("d".into(), 9, true));
    assert_eq!(train.name.as_deref(), Some("2024"), "a bare word for a string key is a string");
    assert_eq!((optim.kind, optim.lr, optim.betas), (Kind::Sgd, 1.0, vec![0.9, 0.999]));
    assert_eq!(optim.groups, BTreeMap::from([("encoder".to_string(), 1e-3)]));
    assert!(stages.is_empty());
    let text = loaded.resolved_toml().unwrap();
    assert_eq!(toml::from_str::<Root>(&text).unwrap(), loaded.config);
}

#[test]
fn base_files_chain_and_are_relative_to_the_file() {
    let dir = Dir::new(&[
        ("a.toml", "[train]\ndata = \"a\"\nsteps = 1\nname = \"a\"\n"),
        ("b.toml", "base = \"a.toml\"\n[train]\nsteps = 2\n"),
        ("c.toml", "base = \"b.toml\"\n[train]\nname = \"c\"\n"),
    ]);
    let train = dir.load("c.toml", &[]).unwrap().config.train;
    assert_eq!((train.data, train.steps, train.name.as_deref()), ("a".into(), 2, Some("c")));
}

#[test]
fn a_mistake_in_a_base_file_names_that_file() {
    let dir =
        Dir::new(&[("a.toml", "[train]\n\nsteps = \"x\"\n"), ("b.toml", "base = \"a.toml\"\ntrain.data = \"d\"\n")]);
    let error = dir.load("b.toml", &[]).unwrap_err();
    assert_eq!(error, "a.toml:3: `train.steps` expects an integer from 0 to 4294967295, found the string \"x\"");
}

#[test]
fn base_that_returns_to_itself() {
    let dir = Dir::new(&[("a.toml", "base = \"b.toml\"\n"), ("b.toml", "\nbase = \"a.toml\"\n")]);
    assert_eq!(dir.load("a.toml", &[]).unwrap_err(), "b.toml:2: `base` leads back to a.toml, which is already read");
}

#[test]
fn base_that_is_not_a_path() {
    assert_eq!(fails("base = 3\n", &[]), "x.toml:1: `base` expects a path, found the integer 3");
}

#[test]
fn missing_file() {
    let error = Dir::new(&[]).load("none.toml", &[]).unwrap_err();
    assert!(error.starts_with("cannot read the configuration none.toml: "), "{error}");
}

#[test]
fn not_toml() {
    let error = fails("[train]\nsteps 3\n", &[]);
    assert!(error.starts_with("x.toml:2: not valid TOML: "), "{error}");
}

#[test]
fn duplicate_key() {
    let error = fails("[train]\nsteps = 3\nsteps = 4\n", &[]);
    assert!(error.starts_with("x.toml:3: not valid TOML: duplicate key"), "{error}");
}

#[test]
fn unknown_key_names_the_nearest() {
    let error = fails("[train]\ndata = \"d\"\nstpes = 3\n", &[]);
    assert_eq!(error, "x.toml:3: unknown key `train.stpes`; did you mean `train.steps`?");
}

#[test]
fn unknown_key_of_another_section() {
    let error = fails("[train]\nlr = 3\n", &[]);
    assert_eq!(error, "x.toml:2: unknown key `train.lr`; did you mean `optim.lr`?");
}

#[test]
fn unknown_key_unlike_any() {
    let error = fails("quux = 3\n", &[]);
    assert_eq!(error, "x.toml:1: unknown key `quux`; valid here: `optim`, `train`, `stages`");
}

#[test]
fn unknown_key_in_a_list_item() {
    let error = fails("[train]\ndata = \"d\"\n[[stages]]\ntitle = \"t\"\n[[stages]]\ntittle = \"t\"\n", &[]);
    assert_eq!(error, "x.toml:6: unknown key `stages[1].tittle`; did you mean `stages[1].title`?");
}

#[test]
fn wrong_type() {
    let error = fails("[train]\ndata = \"d\"\n[optim]\nlr = true\n", &[]);
    assert_eq!(error, "x.toml:4: `optim.lr` expects a finite number, found true");
    let error = fails("[optim]\nbetas = [\n 0.9,\n \"x\"]\n", &[]);
    assert_eq!(error, "x.toml:4: `optim.betas[1]` expects a finite number, found the string \"x\"");
}

#[test]
fn numbers_out_of_range() {
    let error = fails("[train]\nsteps = -1\n", &[]);
    assert_eq!(error, "x.toml:2: `train.steps` expects an integer from 0 to 4294967295, found the integer -1");
    let error = fails("[optim]\nlr = nan\n", &[]);
    assert_eq!(error, "x.toml:2: `optim.lr` expects a finite number, found the number NaN");
}

#[test]
fn unknown_choice() {
    let error = fails("[optim]\nkind = \"adamw\"\n", &[]);
    assert_eq!(error, "x.toml:2: `optim.kind` expects one of \"adam\", \"sgd\", found the string \"adamw\"");
}

#[test]
fn section_given_as_a_value() {
    assert_eq!(fails("train = 3\n", &[]), "x.toml:1: `train` expects a table, found the integer 3");
}

#[test]
fn missing_required_key() {
    assert_eq!(fails("", &[]), "x.toml: missing required key `train.data` (Where the data is.)");
    assert_eq!(fails("[train]\nsteps = 1\n", &[]), "x.toml: missing required key `train.data` (Where the data is.)");
}

#[test]
fn set_names_the_argument() {
    let text = "[train]\ndata = \"d\"\n";
    assert_eq!(fails(text, &["train.steps"]), "--set train.steps: expected section.key=value");
    assert_eq!(fails(text, &["train..steps=1"]), "--set train..steps=1: expected section.key=value");
    assert_eq!(
        fails(text, &["train.stpes=1"]),
        "--set train.stpes=1: unknown key `train.stpes`; did you mean `train.steps`?"
    );
    assert_eq!(
        fails(text, &["train.steps=many"]),
        "--set train.steps=many: `train.steps` expects an integer from 0 to 4294967295, found the string \"many\""
    );
    for argument in ["train.name=\"a \"b\"\"", "train.name='a"] {
        let wanted =
            "the value begins with a quote but is no TOML string; write it without quotes, or escape those inside";
        assert_eq!(fails(text, &[argument]), format!("--set {argument}: {wanted}"));
    }
}

#[test]
fn set_cannot_smuggle_a_second_key() {
    let dir = Dir::new(&[("x.toml", "[train]\ndata = \"d\"\n")]);
    let train = dir.load("x.toml", &["train.name=1\nsteps = 3"]).unwrap().config.train;
    assert_eq!((train.name.as_deref(), train.steps), (Some("1\nsteps = 3"), 100));
}

#[test]
fn invalid_value_is_placed() {
    let dir = Dir::new(&[("x.toml", "[train]\ndata = \"d\"\nsteps = 0\n")]);
    let loaded = dir.load("x.toml", &[]).unwrap();
    let error = loaded.invalid("train.steps", "must be above zero").to_string();
    assert!(error.ends_with("x.toml:3: `train.steps`: must be above zero"), "{error}");
}

#[test]
fn describe_lists_every_key() {
    let text = describe_markdown::<Root>();
    for expected in [
        "A sample.\n",
        "## `[optim]`\n\nHow weights are updated.\n",
        "| `kind` | `\"adam\"`, `\"sgd\"` | `\"adam\"` | The rule. `\"adam\"`: Adaptive. `\"sgd\"`: Plain. |\n",
        "| `betas` | list of float | `[0.9, 0.999]` | Decay rates of the moments. |\n",
        "| `data` | path | **required** | Where the data is. |\n",
        "| `name` | string | unset | Shown in logs. |\n",
        "| `overlap` | bool | `true` | Sync \\| async. |\n",
        "## `[stages[]]`\n\nA stage.\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}
