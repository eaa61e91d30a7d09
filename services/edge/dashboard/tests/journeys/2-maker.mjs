// From the README's curl lines to a chart.
import assert from "node:assert/strict";
import { Dashboard } from "../browser.mjs";
import { System, blocks, until } from "../system.mjs";

export default {
  async "a maker sends a reading by curl, and sees it in the dashboard"() {
    const system = await System.start();
    const [first, room] = blocks("README.md", "A first reading", "sh");
    assert.match(await system.shell(first), /"value":612/);
    assert.match(await system.shell(room), /"metric":"co2"[^}]*"value":612/);

    const dashboard = await Dashboard.open(system);
    await dashboard.logIn();
    await dashboard.room("Lab");
    assert.equal(await dashboard.value("co2"), "612");
    const before = await dashboard.points(1);

    // The next reading arrives by itself.
    await system.logIn();
    await system.call("/sensors/lab.co2/data", { body: { value: 700 } });
    await until("the new value", async () => (await dashboard.value("co2")) === "700");
    await dashboard.points(before + 1);
    await dashboard.done();
    await system.stop();
  },

  async "a maker tests a device's sensors, and is told what is wrong"() {
    const system = await System.start();
    await system.logIn();
    const send = (value) => system.call("/sensors/lab.co2/data", { body: { value } });
    await send(612);
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await dashboard.logIn();
    await dashboard.go("Devices");
    const card = page.getByRole("region", { name: "Device lab" });
    const test = async (value, word) => {
      await card.getByRole("button", { name: "Test the sensors of lab" }).click();
      await card.getByText("Testing").waitFor();
      const id = await card.locator("[data-test]").getAttribute("data-test");
      await until("the end of the test", async () => {
        await send(value());
        return (await system.call(`/test/${id}`)).state === "TEST_STATE_DONE";
      }, 60);
      await card.locator(".pill", { hasText: word }).waitFor();
    };
    let next = 600;
    await test(() => (next += 1), "Passed");
    await test(() => 600, "Failed");
    await card.locator("summary").click();
    await card.getByText("it may be stuck").waitFor();
    await dashboard.done();
    await system.stop();
  },
};
