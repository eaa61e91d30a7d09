// A device and a bridge with tokens of their own.
import assert from "node:assert/strict";
import { join } from "node:path";
import { Dashboard } from "../browser.mjs";
import { System, until } from "../system.mjs";

const shots = process.env.SCREENSHOTS;

export default {
  async "an operator gives a device and a bridge their tokens, and takes one away"() {
    const system = await System.start();
    await system.logIn();
    await system.call("/sensors/lab.co2/data", { body: { value: 612 } });
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await dashboard.logIn();
    await page.getByRole("link", { name: "Devices" }).click();

    await page.getByRole("button", { name: "Tokens of lab" }).click();
    await page.getByLabel("Name of a new one").fill("the lab");
    await page.getByRole("button", { name: "New token" }).click();
    const token = (await page.locator("pre.secret").first().textContent()).trim();
    assert.match(token, /^smd_/);
    if (shots) await page.screenshot({ path: join(shots, "token.png") });
    const send = (sensor, of = token) => system.call(`/sensors/${sensor}/data`, { token: of, body: { value: 613 } });
    await until("the token is known", () => send("lab.co2"));
    await assert.rejects(() => system.call("/rooms", { token }), { status: 403 }, "it only sends");
    await page.getByRole("button", { name: "I have kept it" }).click();
    await page.getByRole("button", { name: "Delete the token the lab" }).click();
    await page.getByText("With a token of its own").waitFor();
    await until("the token has ended", async () => {
      const status = await send("lab.co2").then(() => 200, (error) => error.status);
      assert.equal(status, 401);
      return true;
    });
    await page.getByRole("button", { name: "Cancel" }).click();

    await page.getByRole("button", { name: "New bridge" }).click();
    await page.getByLabel("Id", { exact: true }).fill("gw1");
    await page.getByLabel("What its devices' ids begin with").fill("gw1-");
    await page.getByRole("button", { name: "Make it" }).click();
    await page.getByRole("button", { name: "New token" }).click();
    const ofBridge = (await page.locator("pre.secret").first().textContent()).trim();
    assert.match(ofBridge, /^smb_/);
    await until("the token is known", () => send("gw1-a.t", ofBridge));
    await page.getByRole("button", { name: "I have kept it" }).click();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("gw1-a", { exact: true }).first().waitFor();

    await page.getByRole("button", { name: "Claim code" }).click();
    await page.getByLabel("What their ids begin with").fill("aq-");
    await page.getByRole("button", { name: "Make it" }).click();
    const code = (await page.locator("pre.secret").textContent()).trim();
    const body = { code, deviceId: "aq-1" };
    const claimed = await system.call("/v1/devices:claim", { body, token: "" });
    assert.match(claimed.token, /^smd_/);
    await dashboard.done();
    await system.stop();
  },
};
