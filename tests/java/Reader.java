import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.tensorflow.Result;
import org.tensorflow.SavedModelBundle;
import org.tensorflow.SessionFunction;
import org.tensorflow.Tensor;
import org.tensorflow.ndarray.NdArrays;
import org.tensorflow.types.TBool;
import org.tensorflow.types.TFloat32;
import org.tensorflow.types.TInt64;
import org.tensorflow.types.TString;

/**
 * Calls signatures of a SavedModel that have one input, strings.
 *
 * <p>Its argument is the folder of the model. Standard input is JSON: by signature the values of its input, in base64. Standard output is
 * JSON: by signature and output its shape, and its values in row-major order.
 */
public final class Reader {
  private Reader() {}

  public static void main(String[] arguments) {
    var json = new Gson();
    var form = new TypeToken<Map<String, List<String>>>() {}.getType();
    Map<String, List<String>> requests = json.fromJson(new InputStreamReader(System.in, StandardCharsets.UTF_8), form);
    var answers = new TreeMap<String, Map<String, Object>>();
    try (var model = SavedModelBundle.load(arguments[0], SavedModelBundle.DEFAULT_TAG)) {
      requests.forEach((signature, values) -> answers.put(signature, call(model.function(signature), values)));
    }
    new PrintStream(System.out, true, StandardCharsets.UTF_8).println(json.toJson(answers));
  }

  private static Map<String, Object> call(SessionFunction function, List<String> values) {
    var input = function.signature().inputNames().iterator().next();
    var bytes = values.stream().map(Base64.getDecoder()::decode).toArray(byte[][]::new);
    var answer = new TreeMap<String, Object>();
    try (var tensor = TString.tensorOfBytes(NdArrays.vectorOfObjects(bytes));
        Result result = function.call(Map.of(input, tensor))) {
      for (var output : result) {
        answer.put(output.getKey(), Map.of("shape", output.getValue().shape().asArray(), "values", values(output.getValue())));
      }
    }
    return answer;
  }

  private static List<Object> values(Tensor tensor) {
    var values = new ArrayList<Object>();
    if (tensor instanceof TString) {
      ((TString) tensor).scalars().forEach(scalar -> values.add(scalar.getObject()));
    } else if (tensor instanceof TFloat32) {
      ((TFloat32) tensor).scalars().forEach(scalar -> values.add(scalar.getFloat()));
    } else if (tensor instanceof TInt64) {
      ((TInt64) tensor).scalars().forEach(scalar -> values.add(scalar.getLong()));
    } else if (tensor instanceof TBool) {
      ((TBool) tensor).scalars().forEach(scalar -> values.add(scalar.getBoolean()));
    } else {
      throw new IllegalArgumentException("An output of a type that no signature has: " + tensor.dataType());
    }
    return values;
  }
}
