//! AISHELL-2: `wav.scp` with paths relative to its directory, `trans.txt` with tabs.

use std::path::Path;

use super::{Grouping, Segment, Sound, Visit, lines};
use crate::data::prepare::PrepareError;

pub(super) fn each(dir: &Path, visit: &mut Visit) -> Result<(), PrepareError> {
    let (scp, transcripts) = (dir.join("wav.scp"), dir.join("trans.txt"));
    let (mut texts, again) = lines::table(&transcripts)?;
    let mut grouping = Grouping::new(visit);
    for (line, id) in again {
        let place = format!("{}:{line}", transcripts.display());
        grouping.unusable(place, &id, "the id comes twice; the first line is taken")?;
    }
    for entry in lines::Lines::open(&scp)? {
        let (line, text) = entry?;
        let (id, file) = lines::split(&text);
        let place = format!("{}:{line}", scp.display());
        match texts.get_mut(id) {
            Some((said_on, text)) => {
                // A recording that is named twice has its text the second time too: ids are compared later.
                let (text, said_on) = (text.clone(), std::mem::replace(said_on, 0));
                let place = if said_on == 0 { place } else { format!("{}:{said_on}", transcripts.display()) };
                let mut segment = Segment::whole(id.into(), text, place);
                let folder = Path::new(file).parent().and_then(Path::file_name);
                segment.speaker = folder.map(|s| s.to_string_lossy().into_owned());
                grouping.segment(Sound::File(dir.join(file)), segment)?;
            }
            None => grouping.unusable(place, id, "a recording without a transcript in trans.txt")?,
        }
    }
    let mut left: Vec<_> = texts.into_iter().filter(|(_, (line, _))| *line > 0).collect();
    left.sort_by_key(|(_, (line, _))| *line);
    for (id, (line, _)) in left {
        let place = format!("{}:{line}", transcripts.display());
        grouping.unusable(place, &id, "a transcript without a recording in wav.scp")?;
    }
    grouping.flush()
}
