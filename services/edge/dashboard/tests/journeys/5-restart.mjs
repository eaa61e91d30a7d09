// A live chart through a power cut: what was acknowledged is in it once, and nothing else.
import assert from "node:assert/strict";
import { Dashboard } from "../browser.mjs";
import { System, until } from "../system.mjs";

/** Sends a reading every 250 ms, each until it is acknowledged. Returns how to end it, and then what was sent. */
function sender(system) {
  const sent = [];
  let ended = false;
  const done = (async () => {
    for (let number = 0; !ended; number += 1) {
      const time = new Date().toISOString();
      const body = { readings: [{ sensorId: "bench.count", time, value: number }] };
      while (!(await system.call("/sensors/data", { body }).catch(() => undefined))) {
        await new Promise((again) => setTimeout(again, 100));
      }
      sent.push(Date.parse(time));
      await new Promise((next) => setTimeout(next, 250));
    }
  })();
  return async () => {
    ended = true;
    await done;
    return sent;
  };
}

async function journey(...options) {
  const system = await System.start("--no-host-sensors", ...options);
  await until("all is well", async () => (await system.call("/health")).overall_status === "healthy");
  await system.logIn();
  await system.call("/sensors/bench.count/data", { body: { value: -1 } });
  await system.call("/v1/places", { body: { placeId: "bench", kind: "PLACE_KIND_ROOM", name: "Bench" } });
  await system.call("/v1/placements", { body: { sensorId: "bench.count", roomId: "bench", metric: "count" } });

  const dashboard = await Dashboard.open(system);
  const { page } = dashboard;
  await dashboard.logIn();
  await dashboard.room("Bench");
  await dashboard.points(1);
  const stop = sender(system);
  await dashboard.points(12);
  await page.getByText("As a table").click();

  const fetched = page.calls.length;
  await system.kill();
  await page.locator('[data-stream="reconnecting"]').waitFor();
  await system.start();
  await page.locator('[data-stream="live"]').waitFor({ timeout: 30_000 });
  const before = await dashboard.points(12);
  await dashboard.points(before + 12);
  const sent = await stop();

  const shown = async () => {
    const times = await page.locator("tr[data-time]").evaluateAll((rows) => rows.map((row) => Number(row.dataset.time)));
    return times.reverse().filter((time) => time >= sent[0]);
  };
  await until("every reading is shown", async () => (await shown()).length >= sent.length);
  assert.deepEqual(await shown(), sent);
  // The stream alone brought what was missed: its cursor still holds.
  assert.ok(!page.calls.slice(fetched).includes("ListReadings"), "the chart was not fetched anew");
  await dashboard.done();
  await system.stop();
}

export default {
  "a live chart goes on after a kill and a restart, without gap or duplicate": () => journey(),
  "a live chart goes on after a kill and a restart of all processes": () => journey("--split"),
};
