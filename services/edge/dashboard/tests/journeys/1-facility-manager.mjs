// From an empty data directory to a room with a chart, with the mouse and with the keyboard alone.
import assert from "node:assert/strict";
import { join } from "node:path";
import { Dashboard } from "../browser.mjs";
import { System, until } from "../system.mjs";

const shots = process.env.SCREENSHOTS;

export default {
  async "a facility manager makes a building and a room, and sees its chart"() {
    const system = await System.start();
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await dashboard.logIn();

    // "look at the room This machine: its values move"
    await dashboard.room("This machine");
    assert.match(await dashboard.value("memory_used"), /^\d+\.\d$/);
    const before = await dashboard.points(1);
    await dashboard.points(before + 2);

    await dashboard.go("Places");
    await dashboard.newPlace("Building", "Head office");
    await dashboard.newPlace("Floor", "First floor", "Head office");
    await dashboard.newPlace("Room", "Server room", "Head office › First floor");

    // Out of the room of this machine, and by drag into the new one.
    await dashboard.place("This machine").click();
    await page.getByRole("button", { name: "Take this-machine.cpu_load out" }).click();
    await dashboard.unplaced("this-machine.cpu_load").dragTo(dashboard.place("Server room"));
    await dashboard.unplaced("this-machine.cpu_load").waitFor({ state: "detached" });
    await dashboard.place("Server room").click();
    await page.getByRole("button", { name: "Move this-machine.cpu_load" }).waitFor();

    // Another by keyboard alone: Take out, Place, room, metric.
    await dashboard.place("This machine").focus();
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Take this-machine.load_1m out" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Place this-machine.load_1m" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    const room = page.getByRole("combobox", { name: "Room" });
    assert.ok(await room.evaluate((element) => element === document.activeElement), "the dialog begins at the room");
    await page.keyboard.type("Head");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("load");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    if (shots) await page.screenshot({ path: join(shots, "places.png") });

    await dashboard.room("Server room");
    await page.getByText("Load", { exact: true }).first().click();
    await dashboard.points(2);
    // Each chart as a table: single readings, then summaries.
    await system.logIn();
    const { readings } = await system.call("/v1/sensors/this-machine.load_1m/readings?pageSize=10000");
    const single = await dashboard.download();
    assert.equal(single[0].join(), "time,sensor_id,value,unit,quality");
    const values = new Map(readings.map((reading) => [Date.parse(reading.time), reading.value]));
    const known = single.slice(1).filter(([time]) => values.has(Date.parse(time)));
    assert.ok(known.length >= 2, "what was there before is in the table");
    for (const [time, sensor, value] of known) {
      assert.equal(sensor, "this-machine.load_1m");
      assert.equal(Number(value), values.get(Date.parse(time)));
    }
    for (const range of ["1 h", "24 h", "7 d", "30 d"]) {
      await page.getByRole("button", { name: range, exact: true }).click();
      await dashboard.points(1);
    }
    const summed = await dashboard.download();
    assert.equal(summed[0].join(), "start,room_id,metric,unit,count,mean,min,max");
    const [, , metric, , count, mean, min, max] = summed[1];
    assert.equal(metric, "load");
    assert.ok(Number(count) >= 1, `${count} readings in the first interval`);
    assert.ok(Number(min) <= Number(mean) && Number(mean) <= Number(max), summed[1].join());
    if (shots) await page.screenshot({ path: join(shots, "room.png") });
    await dashboard.done();
    await system.stop();
  },

  async "places are renamed, moved and deleted; sensors get names and units"() {
    const system = await System.start("--no-host-sensors");
    await system.logIn();
    await system.call("/sensors/lab.t/data", { body: { value: 21.5 } });
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await dashboard.logIn();

    await dashboard.go("Places");
    await dashboard.newPlace("Site", "Campus");
    await dashboard.newPlace("Building", "House A", "Campus");
    await dashboard.newPlace("Building", "House B", "Campus");
    await dashboard.newPlace("Room", "Laboratory", "Campus › House A");

    await dashboard.place("Laboratory").click();
    await page.getByRole("button", { name: "Rename" }).click();
    await page.getByRole("dialog").getByLabel("Name").fill("Lab 1");
    await page.keyboard.press("Enter");
    await dashboard.place("Lab 1").waitFor();

    await page.getByRole("button", { name: "Move", exact: true }).click();
    await page.getByRole("dialog").getByRole("combobox", { name: "To" }).selectOption({ label: "Campus › House B" });
    await page.getByRole("dialog").getByRole("button", { name: "Move" }).click();
    const places = async () => (await system.call("/v1/places")).places;
    const find = async (name) => (await places()).find((place) => place.name === name);
    await until("the room is in House B", async () => (await find("Lab 1")).parentId === (await find("House B")).placeId);
    await dashboard.place("Lab 1").dragTo(dashboard.place("House A"));
    await until("the room is in House A", async () => (await find("Lab 1")).parentId === (await find("House A")).placeId);

    await page.getByRole("button", { name: "Place lab.t" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Place", exact: true }).click();
    await page.getByRole("dialog").waitFor({ state: "detached" });

    await dashboard.go("Devices");
    await page.getByRole("button", { name: "Edit lab.t" }).click();
    await page.getByRole("dialog").getByLabel("Name").fill("Bench thermometer");
    await page.getByRole("dialog").getByLabel("Unit of its readings").fill("Cel");
    await page.getByRole("dialog").getByRole("button", { name: "Save" }).click();
    await page.getByRole("row", { name: /Bench thermometer.*21\.5 °C/ }).waitFor();

    await dashboard.go("Places");
    await dashboard.place("House A").click();
    await page.getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete all of it" }).click();
    await dashboard.place("House A").waitFor({ state: "detached" });
    await dashboard.unplaced("lab.t").waitFor();
    assert.deepEqual((await places()).map((place) => place.name).sort(), ["Campus", "House B"]);
    await dashboard.done();
    await system.stop();
  },

  async "an empty system says the next step, and a viewer changes nothing"() {
    const system = await System.start("--no-host-sensors");
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await page.getByText("log in as admin").waitFor();
    await page.getByLabel("User name").fill("admin");
    await page.getByLabel("Password").fill("wrong password");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("alert").getByText(/\w/).waitFor();

    await page.getByRole("button", { name: "Create an account" }).click();
    await page.getByLabel("User name").fill("vera");
    await page.getByLabel("Password").fill("a viewer's password");
    await page.getByRole("button", { name: "Create account" }).click();
    await page.getByText("No rooms yet").waitFor();
    await page.getByText(`${system.url}/sensors/lab.co2/data`).waitFor();

    await dashboard.go("Places");
    await page.getByText("No places yet").waitFor();
    assert.equal(await page.getByRole("button", { name: "New place" }).count(), 0);
    await dashboard.go("Devices");
    await page.getByText("No devices yet").waitFor();
    await dashboard.go("Mesh");
    await page.getByText("All services are healthy").waitFor();

    // The session outlives a reload of the tab, and ends with the log-out.
    await page.reload();
    await page.getByText("vera").waitFor();
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("button", { name: "Log in" }).waitFor();
    await page.reload();
    await page.getByRole("button", { name: "Log in" }).waitFor();
    await dashboard.done();
    await system.stop();
  },
};
