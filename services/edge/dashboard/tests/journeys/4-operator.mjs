// One process per service: one is killed, the others go on, and the breaker is reset.
import assert from "node:assert/strict";
import { join } from "node:path";
import { Dashboard } from "../browser.mjs";
import { System, document, end, until } from "../system.mjs";

const shots = process.env.SCREENSHOTS;

/** Kills a service again whenever its supervisor brings it back, until told to stop. */
function keepDown(system, service) {
  let killed = 0;
  const again = () => {
    const pid = system.pid(service);
    if (pid > 1 && pid !== killed) end((killed = pid));
  };
  again();
  const timer = setInterval(again, 5);
  return () => clearInterval(timer);
}

/** Calls until the edge's breaker for a service is open. */
async function openBreaker(system, service, call) {
  await until(`the breaker for ${service} is open`, async () => {
    await call().catch(() => undefined);
    return (await system.call("/health")).circuit_breakers[service].open;
  });
}

export default {
  async "an operator sees a killed service, and resets its breaker by curl and in the dashboard"() {
    const system = await System.start("--split");
    await until("every process has found the others", async () => (await system.call("/health")).overall_status === "healthy");
    await system.logIn();
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await dashboard.logIn();
    await dashboard.go("Mesh");
    await page.getByText("All services are healthy").waitFor();

    // A tab with a live chart beside it.
    const chart = new Dashboard(await page.context().newPage(), system);
    await chart.page.goto(`${system.url}/`);
    await chart.logIn();
    await chart.room("This machine");
    await chart.points(2);

    // The line as it stands in a sentence of the README.
    const [reset] = /curl -X POST \S*circuit-breaker\/reset\/auth[^`]*/.exec(document("README.md"));
    for (const way of ["curl", "dashboard"]) {
      const letBack = keepDown(system, "auth");
      const logIn = () => system.call("/token", { body: { username: "admin", password: "wrong" }, token: "" });
      await openBreaker(system, "auth", logIn);
      const health = await until("the system says degraded", async () => {
        const said = await system.call("/health");
        return said.overall_status === "degraded" && said.services.auth.status === "unhealthy" && said;
      });
      assert.notEqual(health.services.rooms.status, "unhealthy");
      await page.locator('[data-overall="degraded"]').waitFor();
      await page.locator('[data-service="auth"] [data-breaker="open"]').waitFor();
      if (shots) await page.screenshot({ path: join(shots, "mesh.png") });
      // A valid token still works, and what was live stays live.
      await system.call("/rooms");
      const before = await chart.points(1);
      await chart.points(before + 1);

      letBack();
      await until("auth is back", () => fetch(`http://127.0.0.1:${system.base + 1001}/ready`).then((answer) => answer.ok), 30);
      if (way === "curl") {
        await system.shell(`TOKEN=${system.token}\n${reset}`);
      } else {
        const button = page.getByRole("button", { name: "Reset the breaker for auth" });
        // It may have closed by itself already.
        await button.click({ timeout: 5_000 }).catch(() => undefined);
      }
      await until("the breaker is closed", async () => !(await system.call("/health")).circuit_breakers.auth.open);
      await page.getByText("All services are healthy").waitFor({ timeout: 30_000 }).catch(async (error) => {
        error.message += `\n${JSON.stringify(await system.call("/health"))}\n${await page.locator("main").innerText()}`;
        throw error;
      });
    }

    // The service behind the stream itself: the page says so, and goes on.
    const before = await chart.points(1);
    end(system.pid("rooms"));
    await chart.page.locator('[data-stream="reconnecting"]').waitFor();
    await chart.page.locator('[data-stream="live"]').waitFor();
    await chart.points(before + 1, 30);
    await chart.page.close();
    await dashboard.done();
    await system.stop();
  },
};
