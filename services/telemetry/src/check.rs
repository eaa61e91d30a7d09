//! Whether every reading on disk is what was written.

use std::collections::BTreeMap;

use sensormesh_store::{Finding, Store};
use sensormesh_types::{Result, Scope};

use crate::db::block::Kept;
use crate::db::{self, Databases};
use crate::scrub;
use crate::tail::Mark;

/// Blocks or batches looked at in one transaction.
const PAGE: u32 = 256;

/// Looks at both databases: what every store can tell of itself, and each block and each batch of the log. A batch's checksum
/// covers its row; totals that each row carries show whether one is missing.
pub async fn check(databases: &Databases) -> Result<Vec<Finding>> {
    let mut found = databases.main.check().await?;
    found.extend(databases.log.check().await?);
    if let Err(error) = blocks(&databases.main, &mut found).await {
        found.push(Finding::of(databases.main.service(), "block", &error));
    }
    if let Err(error) = batches(&databases.log, &mut found).await {
        found.push(Finding::of(databases.log.service(), "reading_log", &error));
    }
    match scrub::rollups(databases).await {
        Ok(rollups) => {
            found.extend(rollups.into_iter().map(|what| Finding::new(databases.main.service(), "block", what)));
        }
        Err(error) => found.push(Finding::of(databases.main.service(), "block", &error)),
    }
    Ok(found)
}

async fn blocks(main: &Store, found: &mut Vec<Finding>) -> Result<()> {
    let mut last: Option<Kept> = None;
    loop {
        let mut read = main.read(&Scope::system()).await?;
        let page = db::block::page(&mut read, last.as_ref(), PAGE).await?;
        for block in &page {
            let Err(error) = block.verify() else { continue };
            let finding = Finding::new(main.service(), "block", error.to_string())
                .with("tenant", &block.tenant)
                .with("series", &block.series)
                .with("part", &block.span.part)
                .with("start_ns", &block.span.start)
                .with("end_ns", &block.span.end);
            found.push(match &block.sensor_id {
                Some(sensor_id) => finding.with("sensor_id", sensor_id),
                None => finding,
            });
        }
        match page.into_iter().last() {
            Some(block) => last = Some(block),
            None => return Ok(()),
        }
    }
}

async fn batches(log: &Store, found: &mut Vec<Finding>) -> Result<()> {
    let mut read = log.read(&Scope::system()).await?;
    let heads = db::log::heads(&mut read).await?;
    let mut before: BTreeMap<i64, Mark> = BTreeMap::new();
    for (shard, head) in heads.iter().filter(|(shard, _)| *shard == db::log::SHARD) {
        let mut after = 0;
        loop {
            let page = db::log::page(&mut read, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.mark.seq;
            for batch in &page {
                let named = |problem: &str| {
                    Finding::new(log.service(), "reading_log", problem)
                        .with("tenant", &batch.tenant)
                        .with("seq", &batch.mark.seq)
                        .with("time", &batch.time)
                };
                if !batch.is_intact() {
                    found.push(named("the batch's checksum is wrong"));
                } else if before.get(shard).is_some_and(|b| b.bytes + batch.body.len() as u64 != batch.mark.bytes) {
                    found.push(named("a batch before this one is missing"));
                }
                before.insert(*shard, batch.mark);
            }
        }
        let end = before.get(shard).copied().unwrap_or_default();
        let (bytes, readings) = (head.mark.bytes, head.mark.readings);
        if before.contains_key(shard) && (end.bytes, end.readings) != (bytes, readings) {
            found.push(
                Finding::new(log.service(), "reading_log", "the last batch is missing").with("seq", &head.mark.seq),
            );
        }
        if head.sealed > head.mark.seq || head.trimmed > head.mark.seq {
            found.push(Finding::new(log.service(), "shard", "the head lies before what is sealed or cut"));
        }
    }
    Ok(())
}
