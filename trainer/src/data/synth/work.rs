//! What each text lacks: first its response, then its recording.

use super::command::Runner;
use super::config::{Backend, ChatConfig, SynthConfig};
use super::error::SynthError;
use super::gather::{Gathering, Open, Results};
use super::journal::{Journal, Known, Record, key};
use super::pace::Halt;
use super::place::Place;
use super::speech::{Question, Speaker};
use super::texts::Item;
use super::{Watch, azure, chat};
use std::collections::BTreeSet;

/// A run's configuration and texts, and what is known of them.
pub struct Work<'a> {
    /// The configuration.
    pub config: &'a SynthConfig,
    /// The texts.
    pub items: &'a [Item],
    /// Where everything goes.
    pub place: &'a Place,
    /// What earlier runs got.
    pub known: &'a Known,
}

/// What is known, and what has to be asked.
pub struct Lacking<'a, Q, T> {
    /// Known.
    pub results: Results<T>,
    /// To be asked.
    pub open: Vec<Open<'a, Q>>,
}

impl<'a> Work<'a> {
    /// Responses: the texts' own, the journal's, and those to be asked for with the request's body.
    pub fn lacking_responses(&self) -> Lacking<'a, String, Option<String>> {
        let mut lacking = Lacking { results: Results::new(), open: Vec::new() };
        for (index, item) in self.items.iter().enumerate() {
            let (None, Some(chat)) = (&item.response, &self.config.chat) else {
                lacking.results.insert(index, Ok(item.response.clone()));
                continue;
            };
            let question = chat::body(chat, item);
            let key = key(&item.id, &question);
            if let Some(response) = self.known.responses.get(&key) {
                lacking.results.insert(index, Ok(Some(response.clone())));
            } else if let Some(reason) = self.known.refused.get(&key) {
                lacking.results.insert(index, Err(reason.clone()));
            } else {
                lacking.open.push(Open { index, item, question, key });
            }
        }
        lacking
    }

    /// Recordings, by their length in samples, of the texts at `indices`: those there are, and those to be made.
    pub fn lacking_speech(&self, indices: impl IntoIterator<Item = usize>) -> Lacking<'a, Question<'a>, u64> {
        let mut lacking = Lacking { results: Results::new(), open: Vec::new() };
        for index in indices {
            let item = &self.items[index];
            let question = Question::new(&self.config.speech, item);
            let key = key(&item.id, &question.asked(&self.config.speech));
            let known = self.known.speech.get(&key).filter(|&&samples| self.holds(item, samples));
            if let Some(&samples) = known {
                lacking.results.insert(index, Ok(samples));
            } else if let Some(reason) = self.known.refused.get(&key) {
                lacking.results.insert(index, Err(reason.clone()));
            } else {
                lacking.open.push(Open { index, item, question, key });
            }
        }
        lacking
    }

    /// Whether the recording of `item` is in its file, by the file's size.
    fn holds(&self, item: &Item, samples: u64) -> bool {
        let path = self.place.root.join(self.recording(item));
        std::fs::metadata(path).is_ok_and(|file| file.len() == 44 + 2 * samples)
    }

    /// Who speaks `item`.
    pub fn voice(&self, item: &'a Item) -> &'a str {
        Question::new(&self.config.speech, item).voice
    }

    /// The part whose file `item` comes from, if texts come by parts.
    fn part(&self, item: &Item) -> Option<&'a str> {
        item.part.and_then(|part| self.config.texts.parts.keys().nth(part)).map(String::as_str)
    }

    /// The recording's path in the place.
    pub fn recording(&self, item: &Item) -> String {
        match self.part(item) {
            Some(part) => format!("wav/{part}/{}.wav", item.id),
            None => format!("wav/{}.wav", item.id),
        }
    }

    /// Gets what is lacking: for each text its response, if it is to have one, and the length of its recording.
    pub fn run(&self, journal: &Journal, watch: Watch<'_>) -> Result<Results<(Option<String>, u64)>, SynthError> {
        let halt = Halt::default();
        let gathering = |what| {
            let (total, limits) = (self.items.len(), &self.config.limits);
            Gathering { what, total, limits, journal, halt: &halt, watch }
        };
        let Lacking { results, open } = self.lacking_responses();
        let mut responses = match &self.config.chat {
            Some(chat) if !open.is_empty() => self.ask(&gathering("response"), chat, &open, results)?,
            _ => results,
        };
        // A text without response is not worth a recording.
        let answered = responses.iter().filter(|(_, response)| response.is_ok()).map(|(index, _)| *index);
        let Lacking { results, open } = self.lacking_speech(answered.collect::<Vec<_>>());
        let speech = match open.is_empty() {
            true => results,
            false => self.speak(&gathering("recording"), &open, results)?,
        };
        let both = |(index, samples): (usize, Result<u64, String>)| {
            let response = responses.remove(&index).unwrap_or(Ok(None));
            (index, response.and_then(|response| Ok((response, samples?))))
        };
        let mut all: Results<_> = speech.into_iter().map(both).collect();
        all.extend(responses.into_iter().map(|(index, response)| (index, response.map(|response| (response, 0)))));
        Ok(all)
    }

    fn ask(
        &self,
        gathering: &Gathering<'_>,
        config: &ChatConfig,
        open: &[Open<'_, String>],
        results: Results<Option<String>>,
    ) -> Result<Results<Option<String>>, SynthError> {
        let endpoint = chat::endpoint(config, gathering.halt)?;
        let get = |(): &mut (), open: &Open<'_, String>| {
            let chat::Answer { response, usage } = chat::ask(&endpoint, &open.question)?;
            let (id, key) = (open.item.id.clone(), open.key.clone());
            Ok((Some(response.clone()), Record::Response { id, key, response, usage }))
        };
        gathering.run(config.concurrency, open, results, |_| (), get)
    }

    fn speak(
        &self,
        gathering: &Gathering<'_>,
        open: &[Open<'_, Question<'_>>],
        results: Results<u64>,
    ) -> Result<Results<u64>, SynthError> {
        let config = &self.config.speech;
        let parts: BTreeSet<Option<&str>> = open.iter().map(|open| self.part(open.item)).collect();
        for part in parts {
            let folder = self.place.root.join("wav").join(part.unwrap_or_default());
            std::fs::create_dir_all(&folder).map_err(SynthError::io("create", &folder))?;
        }
        let endpoint = match config.backend {
            Backend::Azure => Some(azure::endpoint(config, gathering.halt)?),
            Backend::Command => None,
        };
        let hidden = self.config.key_variables();
        let scratch = self.place.scratch();
        let start = |thread: usize| match &endpoint {
            Some(endpoint) => (Speaker::Azure(endpoint), thread),
            None => {
                let log = scratch.join(format!("{thread}.log"));
                (Speaker::Command(Runner::new(config, &self.config.texts.folder, &hidden, log, gathering.halt)), thread)
            }
        };
        let get = |(speaker, thread): &mut (Speaker<'_>, usize), open: &Open<'_, Question<'_>>| {
            let to = self.place.root.join(self.recording(open.item));
            let scratch = scratch.join(format!("{thread}.wav"));
            let samples = speaker.record(config, &open.question, &scratch, &to)?;
            let (id, key, characters) = (open.item.id.clone(), open.key.clone(), open.question.billed(config));
            Ok((samples, Record::Speech { id, key, samples, characters }))
        };
        gathering.run(config.concurrency, open, results, start, get)
    }
}
