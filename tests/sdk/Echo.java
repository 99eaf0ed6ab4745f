import invalid.example.aeterna.Aeterna;
import java.util.List;

/** Prints the state that it gets, and gives the same when it is asked. */
public final class Echo {
    private static synchronized void show(String word, List<Aeterna.Frame> frames) {
        StringBuilder line = new StringBuilder(word);
        if (frames != null) {
            for (Aeterna.Frame frame : frames) {
                line.append(String.format(" %02x:", frame.kind));
                for (byte b : frame.payload) {
                    line.append(String.format("%02x", b));
                }
                line.append(":0");
            }
        }
        System.out.println(line);
        System.out.flush();
    }

    private static List<Aeterna.Frame> save(List<Aeterna.Frame> frames) {
        if (!frames.isEmpty() && frames.get(0).text().equals("lose me")) {
            throw new IllegalStateException("not \"this\" one");
        }
        return frames;
    }

    public static void main(String[] arguments) throws Exception {
        Aeterna.State state = new Aeterna.State();
        List<Aeterna.Frame> frames = state.load(given -> {
            if (given.get(0).text().equals("refuse me")) {
                throw new IllegalArgumentException("not this one");
            }
            if (given.get(0).text().equals("choke on me")) {
                throw new StackOverflowError("not this one");
            }
        });
        show("loaded", frames);
        Aeterna.ready();
        Aeterna.status("loaded");
        state.keep(() -> save(frames), given -> show("resumed", given), () -> {
            System.out.println("committed");
            System.exit(0);
        });
        while (System.in.read() >= 0) {
            continue;
        }
    }
}
